"""Runs the functions of the guide's Django app, with the settings that a project would have."""

import os
import sys
from urllib.parse import urlsplit

import django
from django.conf import settings


def database(url):
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": parts.username,
        "PASSWORD": parts.password or "",
        "NAME": parts.path.lstrip("/"),
    }


settings.configure(
    INSTALLED_APPS=["images"],
    DATABASES={"default": database(os.environ["DATABASE_URL"])},
    USE_TZ=True,
)
django.setup()

from images.uploads import image_status, register_image  # noqa: E402

command, arguments = sys.argv[1], sys.argv[2:]
if command == "register":
    register_image(*arguments)
else:
    print(image_status(*arguments))
