import pytest

from windlass.planning.peaks import PEAK_TFLOPS, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "BF16", 312),
        ("NVIDIA A100-PCIE-40GB", "FP32", 19.5),
        ("NVIDIA A100 80GB PCIe", "FP16", 312),
        ("NVIDIA H100 80GB HBM3", "BF16", 989.4),
        ("NVIDIA H100 80GB HBM3", "FP8", 1978.9),
        ("NVIDIA H100 PCIe", "BF16", 756),
        ("NVIDIA H100 NVL", "BF16", 835.5),
        ("NVIDIA H200", "BF16", 989.4),
        ("NVIDIA H200 NVL", "BF16", 835.5),
        ("NVIDIA GH200 480GB", "BF16", 989.4),
        ("NVIDIA B200", "BF16", 2250),
        ("NVIDIA L4", "BF16", 121),
        ("NVIDIA L40", "BF16", 181),
        ("NVIDIA L40S", "BF16", 362),
        ("NVIDIA A10", "BF16", 125),
        ("NVIDIA A10G", "BF16", 70),
        ("NVIDIA RTX A6000", "BF16", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", "BF16", 364.2),
        ("NVIDIA GeForce RTX 4090", "BF16", 165.2),
        ("NVIDIA GeForce RTX 3090", "FP16", 71),
        ("Tesla T4", "FP16", 65),
        ("Tesla V100-SXM2-16GB", "FP16", 125),
        ("Tesla V100-PCIE-32GB", "FP16", 112),
        ("AMD Instinct MI300X", "BF16", 1307.4),
    ],
)
def test_a_gpu_is_known_by_the_name_that_pytorch_reports(name: str, precision: str, tflops: float) -> None:
    assert peak_flops(name, precision) == tflops * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("Tesla T4", "BF16"),
        ("Tesla V100-SXM2-16GB", "BF16"),
        ("NVIDIA A100-SXM4-80GB", "FP8"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "BF16"),
        ("NVIDIA GeForce RTX 4090 D", "BF16"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "BF16"),
        ("NVIDIA GeForce RTX 9999", "BF16"),
        ("NVIDIA A1000", "BF16"),
        ("NVIDIA H100 80GB HBM3", "FP4"),
        ("x86_64", "FP32"),
        ("", "FP32"),
    ],
)
def test_what_is_not_known_has_no_peak(name: str, precision: str) -> None:
    assert peak_flops(name, precision) is None


def test_every_row_is_reached_by_its_own_name() -> None:
    for row, (half, _, single) in PEAK_TFLOPS.items():
        assert peak_flops(f"NVIDIA {row}", "FP16") == half * 1e12
        assert peak_flops(f"NVIDIA {row}", "FP32") == single * 1e12
