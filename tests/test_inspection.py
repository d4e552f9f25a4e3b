"""What check says of one image file, against MindSpore's Decode: what is good is decoded, what is bad deserves it."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib

import mindspore.dataset.vision as vision
import numpy as np
import pytest
from conftest import REPOSITORY
from packing import MEMORY, ODDITIES, cases, patched, peak_memory, png, png_chunk, put, refusal
from PIL import Image

from ms_vit.data.images import read_image
from ms_vit.data.inspection import inspect, look_at, unreadable
from ms_vit.distributed import World
from ms_vit.errors import DataError

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
    (160, 120), Image.Resampling.BICUBIC)
GREY16 = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)


def saved(format: str, image: Image.Image = PHOTO, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def changed(content: bytes, at: int, *values: int) -> bytes:
    return content[:at] + bytes(values) + content[at + len(values):]


def arithmetic_jpeg() -> bytes:
    """16x16 of grey: a progressive, arithmetic-coded JPEG (SOF10) of one scan, whose code is empty as all is zero."""
    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    return (b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xCA, b"\x08\0\x10\0\x10\1\1\x11\0")
            + segment(0xDA, b"\1\1\0\0\0\0") + b"\xff\xd9")


JPEG, PNG = saved("JPEG"), saved("PNG")
EXIF = saved("JPEG", exif=b"Exif\0\0" + bytes(range(200)))
IDAT = PNG.index(b"IDAT")

GOOD = {
    "JPEG": JPEG,
    "JPEG, grey": saved("JPEG", PHOTO.convert("L")),
    "JPEG, CMYK": saved("JPEG", PHOTO.convert("CMYK")),
    "JPEG, progressive": saved("JPEG", progressive=True),
    "JPEG, arithmetic-coded": arithmetic_jpeg(),
    "JPEG, garbage after its end": JPEG + b"garbage" * 50,
    "JPEG, EXIF": EXIF,
    "JPEG, damaged EXIF": changed(EXIF, 30, *[255] * 50),
    "MPO": saved("MPO", save_all=True, append_images=[PHOTO.rotate(5)]),
    "PNG": PNG,
    "PNG, palette": saved("PNG", PHOTO.convert("P")),
    "PNG, alpha": saved("PNG", PHOTO.convert("RGBA")),
    "PNG, one bit": saved("PNG", PHOTO.convert("1")),
    "PNG, 16 bits": saved("PNG", GREY16),
    "PNG, animated": saved("PNG", save_all=True, append_images=[PHOTO.rotate(5)]),
    "PNG, garbage after its end": PNG + b"garbage",
    "PNG, unknown small chunk": png(bytes(20), extra=png_chunk(b"abCd", b"x")),
    "BMP": saved("BMP"),
    "BMP, palette": saved("BMP", PHOTO.convert("P")),
    "PPM": saved("PPM"),
    "PPM, grey": saved("PPM", PHOTO.convert("L")),
    "PPM, text": b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
    "TIFF": saved("TIFF"),
    "TIFF, one bit": saved("TIFF", PHOTO.convert("1"), compression="group4"),
    "TIFF, 16 bits": saved("TIFF", GREY16),
    "TIFF, CMYK": saved("TIFF", PHOTO.convert("CMYK")),
    **{f"TIFF, {name}": saved("TIFF", compression=name)
       for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")},
}
REFUSED = {
    "JPEG, half": ("damaged", JPEG[:len(JPEG) // 2]),
    "JPEG, zeros at its end": ("damaged", JPEG[:len(JPEG) // 2] + bytes(len(JPEG) // 2)),
    "JPEG, EXIF longer than the file": ("damaged", changed(EXIF, 4, 255, 255)),
    "PNG, half": ("damaged", PNG[:len(PNG) // 2]),
    "PNG, without its end": ("damaged", PNG[:-12]),
    "PNG, without its last bytes": ("damaged", PNG[:-4]),
    "PNG, wrong CRC of pixels": ("damaged", changed(PNG, len(PNG) - 13, PNG[-13] ^ 1)),
    "PNG, wrong CRC of the end": ("damaged", changed(PNG, len(PNG) - 1, PNG[-1] ^ 1)),
    "PNG, wrong pixels": ("damaged", changed(PNG, IDAT + 500, PNG[IDAT + 500] ^ 255)),
    "PNG of an iPhone": ("wrong type", PNG[:8] + png_chunk(b"CgBI", b"\x50\0\x20\2") + PNG[8:]),
    "PNG, unknown chunk": ("wrong type", png(bytes(20), extra=png_chunk(b"ABCD", b"x"))),
    "BMP, half": ("damaged", saved("BMP")[:9999]),
    "PPM, half": ("damaged", saved("PPM")[:9999]),
    "TIFF, half": ("damaged", saved("TIFF")[:9999]),
    "TIFF, float": ("wrong type", saved("TIFF", Image.new("F", (8, 8)))),
    "TIFF, 32 bits": ("wrong type", saved("TIFF", Image.new("I", (8, 8)))),
    "TIFF, CMYK of 16 bits": (
        "wrong type", patched(saved("TIFF", PHOTO.convert("CMYK")), b"\x08\0" * 4, b"\x10\0" * 4)),
    "TIFF, zstd": ("wrong type", saved("TIFF", compression="zstd")),
    "TIFF, lzma": ("wrong type", saved("TIFF", compression="lzma")),
    **{format: ("wrong type", saved(format)) for format in ("GIF", "WEBP", "JPEG2000", "ICO", "TGA", "PDF")},
}
# Pixels or parts are lost. Pillow, and so infer, refuses these; MindSpore makes something of them, if not every time.
DAMAGED_ALL_THE_SAME = {
    "JPEG, without its end": JPEG[:-2],
    "JPEG, without its last rows": JPEG[:-40],
    "JPEG, height of zero": changed(JPEG, JPEG.index(b"\xff\xc0") + 5, 0, 0),
    "PNG, wrong CRC of a text": changed(png(bytes(20), extra=png_chunk(b"tEXt", b"a\0b")), 33 + 8, 98),
    "PNG, wrong CRC of the header": changed(PNG, 29, PNG[29] ^ 1),
}


def verdict(content: bytes, tmp_path) -> str | None:
    (tmp_path / "x.jpg").write_bytes(content)
    defect = look_at(tmp_path / "x.jpg").defect
    return defect and defect.kind


@pytest.mark.parametrize("name", GOOD)
def test_what_is_good_mindspore_decodes(name, tmp_path):
    assert verdict(GOOD[name], tmp_path) is None
    with Image.open(tmp_path / "x.jpg") as image:
        assert vision.Decode()(np.fromfile(tmp_path / "x.jpg", np.uint8)).shape == (image.height, image.width, 3)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_bad_mindspore_refuses(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # where MindSpore leaves a copy of an image that it can't decode
    kind, content = REFUSED[name]
    assert verdict(content, tmp_path) == kind
    with pytest.raises(RuntimeError):
        vision.Decode()(np.frombuffer(content, np.uint8))
    # MindSpore 2.10 refuses the JPEG after some damaged ones, too, however good it is; let it be this.
    with contextlib.suppress(RuntimeError):
        vision.Decode()(np.frombuffer(JPEG, np.uint8))


@pytest.mark.parametrize("name", DAMAGED_ALL_THE_SAME)
def test_what_is_damaged_is_told_whatever_mindspore_makes_of_it(name, tmp_path):
    assert verdict(DAMAGED_ALL_THE_SAME[name], tmp_path) == "damaged"


def many_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


# Name: content, what check says, what read_image says. MindSpore is not asked.
NO_PICTURES = {
    "empty": (b"", "has zero bytes", "is no image"),
    **{f"{each!r:.20}": (each, "is no image inside; replace or remove it", "is no image") for each in (
        b"hello", b"<html>404</html>", bytes(10_000))},
    "50,000 x 50,000 pixels": (png(b"", width=50_000, height=50_000), "claims more than 178,956,970 pixels", "pixels"),
    "2^31 x 2^31 pixels": (png(b"", width=(1 << 31) - 1, height=(1 << 31) - 1), "", ""),
    "no pixels": (png(b"", width=0, height=0), "can't be read", ""),
    "a bomb in a text": (png(b"", extra=png_chunk(b"zTXt", b"x\0\0" + many_zeros(100_000_000))), "can't be read", ""),
    "a bomb for a colour profile": (
        png(b"", extra=png_chunk(b"iCCP", b"x\0\0" + many_zeros(100_000_000))), "can't be read", ""),
    "no data": (png(b""), "can't be read", "can't be read as an image"),
    "data that is none": (png(b"").replace(zlib.compress(b""), b"hello123"), "a checksum is wrong", "can't be read"),
    "half its data": (png(bytes(100), width=64, height=64), "can't be read", "can't be read as an image"),
    "a colour type of nobody's": (png(bytes(20), colour=7), "can't be read", ""),
    "no header": (png(bytes(20)).replace(b"IHDR", b"IHDX"), "can't be read", ""),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\nshowpage\n",
                   "is no image inside", "is no image"),
    "a BMP that lies": (b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, *[0] * 6),
                        "pixels", "pixels"),
    "a PPM that lies": (b"P6 100000 100000 255 ", "pixels", "pixels"),
    "a PPM of no numbers": (b"P6 x y 255 ", "can't be read", ""),
    "a TIFF of itself": (b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + struct.pack("<I", 8),
                         "can't be read", ""),
    "a GIF that lies": (b"GIF89a" + b"\xff" * 20, "", ""),
    **{f"{format}, cut at {share:.0%}": (saved(format)[:int(len(saved(format)) * share)], "", "")
       for format in ("JPEG", "PNG", "BMP", "TIFF", "PPM") for share in (0.1, 0.3, 0.9)},
}


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")     # Pillow's, of damaged files
@pytest.mark.parametrize(("content", "defect", "says"), cases(NO_PICTURES))
def test_what_is_no_picture_is_told_by_check_and_by_infer(content, defect, says, tmp_path):
    path = put(tmp_path / "x.png", content)
    memory = peak_memory(reset=True)
    (found,) = inspect(tmp_path, ["x.png"], "looking")
    assert peak_memory() - memory < MEMORY and found.sha256 is None
    assert found.defect is not None and defect in found.defect.text and found.defect.text.isprintable()
    assert says in (told := refusal(read_image, path, DataError)) and str(path) in told


def test_of_sixteen_bits_the_high_ones_are_the_pixels(tmp_path):
    GREY16.save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "x.png"))[..., 1], np.asarray(GREY16) // 256)


def test_the_images_that_cannot_be_read_are_kept_for_the_run(tmp_path):
    files = [tmp_path / path for path in ("train/a/1.png", "train/a/2.png", "val/a/1.png")]
    for path, content in zip(files, (PNG, PNG[:99], b""), strict=True):
        put(path, content)
    assert unreadable(tmp_path, tmp_path, files, World(1, 2)) == files[1:]
    assert not (tmp_path / "bad_images.json").exists()          # that process doesn't write
    for content in (PNG[:99], PNG):
        files[1].write_bytes(content)
        assert unreadable(tmp_path, tmp_path, files, World()) == files[1:]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", b"\xff"])
def test_a_kept_list_of_images_that_is_none_is_told(content, tmp_path):
    put(tmp_path / "bad_images.json", content)
    says = refusal(lambda run: unreadable(tmp_path, run, [], World()), tmp_path, DataError)
    assert "bad_images.json is no list of images" in says


@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_is_no_file_is_told_by_check_and_by_infer(oddity, tmp_path):
    ODDITIES[oddity](tmp_path / "x.png")
    assert look_at(tmp_path / "x.png").defect is not None
    assert "x.png" in refusal(read_image, tmp_path / "x.png", DataError)


@pytest.mark.parametrize("length", [3, 20, 200, 400])
def test_a_jpeg_cut_within_its_header_is_found(length, tmp_path):
    """MindSpore 2.10 is not asked: some of these end its process by SIGFPE."""
    assert verdict(JPEG[:length], tmp_path) == "damaged"


def test_a_random_change_that_check_passes_is_one_that_mindspore_passes(tmp_path):
    """In PNG, whose checksums leave nothing to chance."""
    random = np.random.default_rng(1)
    passed = 0
    for _ in range(300):
        at = int(random.integers(len(PNG)))
        content = changed(PNG, at, int(random.integers(256)))
        if verdict(content, tmp_path) is None:
            passed += 1
            vision.Decode()(np.frombuffer(content, np.uint8))
    assert passed < 10      # those that changed nothing


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)}).stdout


def test_check_does_without_mindspore():
    assert python("import sys, ms_vit.check; print('mindspore' in sys.modules)") == "False\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes can't be held to cores here")
def test_no_more_threads_than_cores_that_the_process_may_use():
    one = min(os.sched_getaffinity(0))
    assert python(f"""
import os, threading, time
from ms_vit.data.threads import parallel_map
os.sched_setaffinity(0, [{one}])
def name(item):
    time.sleep(0.001)
    return threading.current_thread().name
print(len(set(parallel_map(name, range(200), "", ""))))""") == "1\n"


def test_a_failure_ends_the_work_with_most_of_it_undone():
    from ms_vit.data.threads import parallel_map

    done = []

    def work(item: int) -> None:
        done.append(item)
        if item == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(parallel_map(work, range(100_000), "", ""))
    assert len(done) < 5_000
