"""`make lab`: the whole checkout, the quickstart opened, and notebooks that are not changed by looking at them.

Notebooks are committed without the version of Python that ran them. JupyterLab adds it when a kernel starts, and then
says that the notebook has unsaved changes. So it is added while reading, and taken out again while saving.
"""
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import KERNEL_NAME
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

c = get_config()  # noqa: F821


def as_the_kernel_would(metadata):
    "The notebook's metadata with what JupyterLab writes into it when its kernel has started."
    spec = KernelSpecManager().get_kernel_spec(KERNEL_NAME)
    metadata["kernelspec"] = dict(display_name=spec.display_name, language=spec.language, name=KERNEL_NAME)
    metadata["language_info"] = dict(IPythonKernel.language_info)


class QuietContents(AsyncLargeFileManager):
    async def get(self, path, content=True, type=None, format=None, **more):
        model = await super().get(path, content, type, format, **more)
        if content and model["type"] == "notebook": as_the_kernel_would(model["content"]["metadata"])
        return model

    def run_pre_save_hooks(self, model, path, **more):
        without_versions(model)
        super().run_pre_save_hooks(model, path, **more)


def without_versions(model):
    "What is written is what was read, as `nbdev_clean` leaves it."
    if model["type"] != "notebook" or not model.get("content"): return
    metadata = model["content"]["metadata"]
    metadata.pop("language_info", None)
    metadata["kernelspec"] = dict(display_name="python3", language="python", name="python3")


c.ServerApp.contents_manager_class = QuietContents
c.ServerApp.root_dir = "."
c.LabApp.default_url = "/lab/tree/nbs/experiments/quickstart.ipynb"
c.LabApp.news_url = None          # ask no other host for news
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
