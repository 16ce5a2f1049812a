from . import figures as figures
from .attention import view_attention as view_attention
from .page import Page as Page
