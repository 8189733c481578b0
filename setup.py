"""Package description: everything is read from settings.ini; the notebooks under nbs/ travel inside the wheel."""
from configparser import ConfigParser
from pathlib import Path
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

EXTRAS = {
    "dev": ["nbdev==2.4.14", "jupyterlab>=4", "pytest>=8", "pytest-xdist", "hypothesis", "playwright", "ruff",
            "build", "wheel"],
    "docs": ["mkdocs-material>=9.6,<10", "latex2mathml>=3.77"],    # make docs
    "hub": ["huggingface_hub>=0.30"],                              # models and data sets by their names
    "elmo": ["h5py>=3.10"],                                        # ELMo weights as AllenNLP published them
    "excel": ["openpyxl>=3.1"],                                    # xlsx files
    "parquet": ["pyarrow"],                                        # Parquet files
}


class BuildWithNotebooks(build_py):
    "Copies the notebooks to run and to learn from into the built package, so that an installed sentnb is whole."
    def run(self):
        super().run()
        if self.editable_mode: return
        for room in ("experiments", "explore", "tutorials"):
            source = ROOT / "nbs" / room
            if source.exists():
                shutil.copytree(source, Path(self.build_lib) / "sentnb" / "notebooks" / room, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns(".ipynb_checkpoints", ".notest"))


def with_absolute_links(text: str) -> str:
    "Markdown whose links and pictures work far from the repository."
    pages = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    files = f"https://raw.githubusercontent.com/{cfg['user']}/{cfg['repo']}/{cfg['branch']}/"
    relative = r"(?!https?:|mailto:|#)"
    text = re.sub(rf"(!\[[^]]*\]\(){relative}", rf"\g<1>{files}", text)
    return re.sub(rf"((?<!!)\[(?:[^][]|\[[^]]*\])*\]\(){relative}", rf"\g<1>{pages}", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
                  "Changes": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    long_description=with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["sentnb", "sentnb.*"]),
    include_package_data=True,
    package_data={"sentnb": ["released/**/*", "**/*.css", "**/*.js", "**/*.html"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=EXTRAS,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    cmdclass={"build_py": BuildWithNotebooks},
    zip_safe=False,
)
