"""The web page: choose a model, type a prompt, Analyze, and ask why. It holds no science.

from mi_toolkit.app import build
build().launch()
"""

from mi_toolkit.app.dashboard import build as build
from mi_toolkit.app.settings import Settings as Settings
