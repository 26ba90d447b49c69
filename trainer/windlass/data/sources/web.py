"""Web pages: their main text by resiliparse (Bevendorff et al. 2018; the extractor of DCLM), archives by warcio."""

from collections.abc import Iterator

from windlass.data.sources.document import Document
from windlass.data.sources.files import LONGEST_RECORD, SourceFile, open_file
from windlass.errors import WindlassError


def html(file: SourceFile) -> Iterator[Document]:
    """Yield the page's main text, without navigation, header and footer."""
    with open_file(file) as opened:
        page = opened.read(LONGEST_RECORD)
    yield Document(file.uri, _main_text(page))


def warc(file: SourceFile) -> Iterator[Document]:
    """Yield the main text of each HTML response; DataCorrupt where the archive cannot be read."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    try:
        with open_file(file) as opened:
            for record in ArchiveIterator(opened):
                headers = record.http_headers
                if record.rec_type == "response" and headers and _is_html(headers.get_header("Content-Type") or ""):
                    page = record.content_stream().read(LONGEST_RECORD)
                    yield Document(f"{file.uri}#{record.rec_headers.get_header('WARC-Record-ID')}", _main_text(page))
    except ArchiveLoadFailed as error:
        raise WindlassError("DataCorrupt", f"{file.uri} cannot be read as WARC: {error}") from error


def _is_html(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def _main_text(page: bytes) -> str | None:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    if b"\0" in page[:1024]:
        return None
    tree = HTMLTree.parse(bytes_to_str(page, detect_encoding(page, html5_compatible=True) or "utf-8"))
    return str(extract_plain_text(tree, main_content=True, alt_texts=False))
