"""What each GPU computes at most: the denominator of the model FLOPs utilisation (MFU)."""

import re

# Dense TFLOP/s with accumulation in float32, without sparsity, from the vendors' datasheets and architecture papers:
# name as PyTorch reports it: (BF16 or FP16 on tensor cores, FP8, FP32 without TF32). None: not in the hardware.
# A row applies where all its words are in the device's name; the first that does is taken, special ones stand first.
PEAK_TFLOPS: dict[str, tuple[float, float | None, float]] = {
    "GB200": (2500, 5000, 80),
    "B200": (2250, 4500, 75),
    "GH200": (989.4, 1978.9, 66.9),
    "H200 NVL": (835.5, 1670.5, 60),
    "H200": (989.4, 1978.9, 66.9),
    "H100 NVL": (835.5, 1670.5, 60),
    "H100 PCIe": (756, 1513, 51.2),
    "H100": (989.4, 1978.9, 66.9),
    "A100": (312, None, 19.5),
    "A40": (149.7, None, 37.4),
    "A30": (165, None, 10.3),
    "A10G": (70, None, 35),
    "A10": (125, None, 31.2),
    "L40S": (362, 733, 91.6),
    "L40": (181, 362, 90.5),
    "L4": (121, 242.5, 30.3),
    "RTX 6000 Ada": (364.2, 728.5, 91.1),
    "RTX A6000": (154.8, None, 38.7),
    "RTX 5090": (209.5, 419, 104.8),
    "RTX 4090": (165.2, 330.3, 82.6),
    "RTX 3090": (71, None, 35.6),
    "V100S": (130, None, 16.4),
    "V100 SXM2": (125, None, 15.7),
    "V100 PCIe": (112, None, 14),
    "T4": (65, None, 8.1),
    "MI300X": (1307.4, 2614.9, 163.4),
}
OTHER_CHIPS = {"LAPTOP", "MAX", "MIG", "D"}
"""Words of names that look like a row's but mean less of a chip: RTX 4090 Laptop, RTX 4090 D, a MIG slice."""
WITHOUT_BF16 = {"T4", "V100S", "V100 SXM2", "V100 PCIe"}


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s that a device reaches at most, for its name as PyTorch reports it; None where it is not known.

    A name or precision that is not known gives no number, since one of another GPU would make a false MFU.
    """
    words = set(re.split(r"[^A-Z0-9]+", device_name.upper()))
    if words & OTHER_CHIPS:
        return None
    row = next((row for row in PEAK_TFLOPS if set(row.upper().split()) <= words), None)
    if row is None or (precision == "BF16" and row in WITHOUT_BF16):
        return None
    half, fp8, single = PEAK_TFLOPS[row]
    tflops = {"BF16": half, "FP16": half, "FP8": fp8, "FP32": single}.get(precision)
    return None if tflops is None else tflops * 1e12
