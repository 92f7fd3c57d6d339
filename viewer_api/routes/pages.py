# SPDX-License-Identifier: Apache-2.0
"""The page of the small viewer."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

#: Files of the page: part of the package.
PAGES_FOLDER = Path(__file__).resolve().parents[1] / "pages"

router = APIRouter()


@router.get("/")
def page() -> FileResponse:
    """Send the page; it asks DICOMweb for the rest."""
    return FileResponse(PAGES_FOLDER / "index.html", media_type="text/html", headers={"Cache-Control": "no-cache"})
