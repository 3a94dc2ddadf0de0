"""Print constraints.txt for what is installed here: exact versions, local build tags (such as +cpu) removed."""

from importlib.metadata import distributions

HEADER = """\
# Versions that are known to work together; set-up installs with `pip install -c constraints.txt`. The ranges that the
# package itself accepts are in pyproject.toml. Regenerate with `make constraints` after a deliberate upgrade."""

if __name__ == "__main__":
    leave_out = {"peftbench", "pip", "setuptools"}
    found = {d.metadata["Name"]: d.version.split("+")[0] for d in distributions()}
    print(HEADER)
    for name in sorted((n for n in found if n.lower() not in leave_out), key=str.lower):
        print(f"{name}=={found[name]}")
