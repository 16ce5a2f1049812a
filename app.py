"""The web page as Hugging Face Spaces run it, and `python app.py`."""

from mi_toolkit.app import build

page = build()

if __name__ == "__main__":
    page.launch()
