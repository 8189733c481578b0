"""Package description: everything is read from settings.ini; the notebooks under nbs/ travel inside the wheel."""
from configparser import ConfigParser
from pathlib import Path
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


class BuildWithNotebooks(build_py):
    "Copies the experiment and explore notebooks into the built package, so that an installed sentnb is whole."
    def run(self):
        super().run()
        if self.editable_mode: return
        for room in ("experiments", "explore"):
            source = ROOT / "nbs" / room
            if source.exists():
                shutil.copytree(source, Path(self.build_lib) / "sentnb" / "notebooks" / room, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns(".ipynb_checkpoints", ".notest"))


README = ROOT / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    packages=find_packages(include=["sentnb", "sentnb.*"]),
    include_package_data=True,
    package_data={"sentnb": ["py.typed", "released/**/*"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require={"tables": ["pyarrow", "openpyxl"]},   # Parquet and Excel files
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    cmdclass={"build_py": BuildWithNotebooks},
    zip_safe=False,
)
