"""The web page as Hugging Face Spaces run it, and `python app.py`: open to strangers."""

from mi_toolkit.app import Settings, build

page = build(Settings(public=True))

if __name__ == "__main__":
    page.launch()
