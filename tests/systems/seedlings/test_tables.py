"""Names of photographs, and the tables that users write."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from latens.errors import InputError, UnreadableInput, UsageError
from latens.systems.seedlings.names import Shot, exif_date, identify, parse_date
from latens.systems.seedlings.tables import parse_ranges, read_grades, read_lots


@pytest.mark.parametrize(
    ("name", "tray", "day"),
    [
        ("A12_day6.png", "A12", 6),
        ("tray-3-day07.png", "tray-3", 7),
        ("A_2024-03-07.png", "A", 6),
        ("B2018004r3s33_2024-03-05 11-39-33_test_TV_2.png", "B2018004r3s33", 4),
        ("50uM-1-17_2024-03-06.jpg", "50uM-1-17", 5),
        ("IMG_0007.png", "IMG_0007", None),
        ("tray7.png", "tray7", None),
    ],
)
def test_no_other_number_is_the_day(name: str, tray: str, day: int | None) -> None:
    found = identify(Path(name), sown=date(2024, 3, 1))
    assert (found.tray, found.day) == (tray, day)


def test_dates_need_the_day_of_sowing() -> None:
    assert identify(Path("A_2024-03-07.png")).day is None
    assert "--sown" in identify(Path("A_2024-03-07.png")).note
    before = identify(Path("A_2024-02-07.png"), sown=date(2024, 3, 1))
    assert before.day is None
    assert "before" in before.note
    assert identify(Path("A_2024-03-07.png"), day=4) == Shot("A", 4)
    with pytest.raises(UsageError, match="not a date"):
        parse_date("1.3.2024", "--sown")


def test_exif_gives_the_day_of_the_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:03:06 10:00:00"
    path = tmp_path / "photo.jpg"
    Image.new("L", (8, 8)).save(path, exif=exif)
    assert exif_date(path) == date(2024, 3, 6)
    assert identify(path, sown=date(2024, 3, 1)).day == 5
    assert "EXIF" in identify(path).note


def test_grades(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    path.write_text("tray,row,col,grade\nA,1,2,5\nA,10,15,1\n")
    assert read_grades(path) == {("A", 1, 2): 5, ("A", 10, 15): 1}
    path.write_text("tray;row;col;grade\nA;1;1;6\n")  # as spreadsheets in some countries save it
    assert read_grades(path) == {("A", 1, 1): 6}
    for text, message in (
        ("tray,row,col\nA,1,1\n", "column grade"),
        ("tray,row,col,grade\nA,1,1,7\n", "grade 7"),
        ("tray,row,col,grade\nA,0,1,5\n", "from 1"),
        ("tray,row,col,grade\nA,1,1,5\nA,1,1,4\n", "twice"),
        ("tray,row,col,grade\nA,x,1,5\n", "whole numbers"),
        ("tray,row,col,grade\n", "no plants"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_grades(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnreadableInput):
        read_grades(path)


def test_lots(tmp_path: Path) -> None:
    path = tmp_path / "lots.csv"
    path.write_text("tray,rows,cols,lot,seeds,sown\nA,1-5,,L1,75,2024-03-01\nB,,1-3 7,L1,,2024-03-01\nA,6-10,,L2,,\n")
    first, second = read_lots(path)
    assert first.name == "L1"
    assert first.sown == date(2024, 3, 1)
    assert first.seeds == {"A": 75, "B": 0}
    assert first.holds(("A", 5, 15))
    assert not first.holds(("A", 6, 1))
    assert first.holds(("B", 9, 7))
    assert not first.holds(("B", 1, 4))
    assert second.holds(("A", 6, 1))
    assert not second.holds(("C", 1, 1))
    for text, message in (
        ("tray,lot\nA,L\nA,L\n", "twice"),
        ("tray,rows,lot\nA,5-1,L\n", "not a range"),
        ("tray,rows,lot\nA,0-3,L\n", "not a range"),
        ("tray,lot,seeds\nA,L,many\n", "number of seeds"),
        ("tray,lot,sown\nA,L,soon\n", "not a date"),
        ("tray,lot\n,L\n", "must not be empty"),
        ("tray,rows,lot\nA,1-4,L\nA,4-6,M\n", "L and M share cells of tray A"),
        ("tray,rows,cols,lot\nA,1-4,,L\nA,,15,M\n", "share cells"),
        ("tray,rows\nA,1\n", "column lot"),
    ):
        path.write_text(text)
        with pytest.raises((InputError, UsageError), match=message):
            read_lots(path)
    path.write_bytes('\ufefftray;rows;cols;lot\r\n"A";"1-5";;"L, early"\r\nA;6-10;1-3 7;M\r\n'.encode())
    early, other = read_lots(path)  # as spreadsheets save it: byte order mark, semicolons, quotes
    assert early.name == "L, early"
    assert other.holds(("A", 6, 7))
    assert not other.holds(("A", 5, 7))
    assert parse_ranges("", "x") == ()
    assert parse_ranges("1-2, 5", "x") == (range(1, 3), range(5, 6))
