from .build import head_atlas as head_atlas
from .folder import HeadAtlas as HeadAtlas
from .headvis import export_headvis as export_headvis
