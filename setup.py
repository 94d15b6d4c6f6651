"""What `pyproject.toml` can't express: project links, and a README that works on a package index.

Maintainers set `REPOSITORY` once, in this place, before the first release. While it is empty, the
package has no project links, and the links of its description stay relative.
"""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = ""
"""Address of the repository, such as `https://example.org/owner/lazybench`, without a final `/`."""

ROOT = Path(__file__).resolve().parent
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s]+)")


def version() -> str:
    """Return the version that `lazybench/_version.py` holds."""
    text = (ROOT / "lazybench" / "_version.py").read_text("utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]


def project_urls(repository: str, tag: str) -> dict[str, str]:
    """Return the project's links for a release that is tagged `tag`; none without a repository."""
    if not repository:
        return {}
    return {
        "Homepage": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the files of a tag of the repository.

    Blocks of code stay as they are, and so does the whole text without a repository.
    """
    if not repository:
        return text
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [_LINK.sub(rf"{repository}/blob/{tag}/\1", part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    readme = (ROOT / "README.md").read_text("utf-8")
    setup(
        long_description=with_absolute_links(readme, REPOSITORY, f"v{version()}"),
        long_description_content_type="text/markdown",
        project_urls=project_urls(REPOSITORY, f"v{version()}"),
    )
