"""Files of rows by name: which are read, and what is said of others."""

PARQUET = (".parquet", ".parq", ".pq")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.bz2", ".tsv.bz2", ".csv.zst", ".tsv.zst")
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.bz2", ".jsonl.zst")
ARROW = (".feather", ".arrow", ".ipc")
ORC = (".orc",)
TABLES = {"Parquet": PARQUET, "CSV": CSV, "JSON Lines": JSON_LINES, "Arrow": ARROW, "ORC": ORC}
"""Files of rows in columns, by what their names end in."""
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
FORMATS = {**TABLES, "images": IMAGES}
"""Files that a folder of rows may hold; the first that one holds are its rows if they are Parquet."""
READ = (
    f"raydc reads Parquet ({', '.join(PARQUET)}), CSV (.csv, .tsv, also .gz), JSON Lines (.jsonl, .ndjson), Arrow "
    f"({', '.join(ARROW)}), ORC, pictures ({', '.join(IMAGES)}), .npy, .npz with X, "
    "SciPy's sparse .npz, and AnnData (.h5ad)"
)
FRAME = '.to_parquet("rows.parquet", index=False)'
CONVERSIONS = {
    ("txt",): f"pandas.read_csv(PATH){FRAME}",
    ("json", "json.gz"): 'pandas.read_json(PATH).to_json("rows.jsonl", orient="records", lines=True)',
    ("xlsx", "xls"): f"pandas.read_excel(PATH){FRAME}",
    ("h5", "hdf5", "hdf"): 'numpy.save("rows.npy", h5py.File(PATH)[NAME][:])',
    ("mat",): 'numpy.save("rows.npy", scipy.io.loadmat(PATH)[NAME])',
    ("pt", "pth"): 'numpy.save("rows.npy", torch.load(PATH, weights_only=True).numpy())',
    ("safetensors",): 'numpy.save("rows.npy", safetensors.numpy.load_file(PATH)[NAME])',
    ("bmp", "gif", "heic"): 'numpy.save("rows.npy", numpy.stack([... a picture each ...]))',
}
"""What makes a file that is read, by suffix."""
PICKLES = ("pkl", "pickle", "joblib", "pkl.gz")


def suffix_of(path: str) -> str:
    """What follows the first dot of a file's name that begins a known suffix, else its last; lower case."""
    name = path.rsplit("/", 1)[-1].lower()
    known = [*PICKLES, *(suffix for suffixes in CONVERSIONS for suffix in suffixes)]
    longest = max((suffix for suffix in known if name.endswith(f".{suffix}")), key=len, default="")
    return longest or (name.rsplit(".", 1)[1] if "." in name else "")


def conversion(path: str) -> str:
    """What is read, and how this file's rows become that; as words that end a message."""
    suffix = suffix_of(path)
    if suffix in PICKLES:
        return (
            f"{READ}; a pickle may hold code, so it is never opened: where it was made, write numpy.save('rows.npy', X)"
            f" or frame{FRAME}"
        )
    found = next((how for suffixes, how in CONVERSIONS.items() if suffix in suffixes), None)
    return f"{READ}; convert it: {found.replace('PATH', repr(path))}" if found else f"{READ}; write the rows as such"


def format_of(path: str) -> str | None:
    """Which of FORMATS a file is by its name; None for others."""
    name = path.lower()
    return next((kind for kind, suffixes in FORMATS.items() if name.endswith(suffixes)), None)
