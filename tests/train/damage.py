"""What a disk or a person can do to a checkpoint: functions of its folder, by name."""

import shutil


def data_files(folder):
    """The files that hold most of a checkpoint, largest first."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def truncate(folder):
    path = data_files(folder)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    data_files(folder)[0].write_bytes(b"")


def flip(folder):
    path = data_files(folder)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def lose_a_file(folder):
    data_files(folder)[0].unlink()


def lose_all(folder):
    for path in data_files(folder):
        path.unlink()


def lose_what_it_is_about(folder):
    shutil.rmtree(folder / "about")


def rewrite_what_it_is_about(folder):
    path = next((folder / "about").glob("*metadata"))
    path.write_text(path.read_text().replace("float32", "float64"))


def damage_everything_small(folder):
    for path in data_files(folder):
        if path.stat().st_size < 1000:
            path.write_bytes(b"{")


DAMAGES = {
    "truncated": truncate,
    "emptied": empty,
    "a bit flipped": flip,
    "a file lost": lose_a_file,
    "all files lost": lose_all,
    "its description lost": lose_what_it_is_about,
    "its description changed": rewrite_what_it_is_about,
    "its small files cut short": damage_everything_small,
}
