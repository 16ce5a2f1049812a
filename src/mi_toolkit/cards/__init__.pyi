from .card import HeadCard as HeadCard
from .card import head_card as head_card
from .families import Family as Family
from .families import HeadFamilies as HeadFamilies
from .families import head_families as head_families
from .profile import HeadProfiles as HeadProfiles
from .profile import profile_heads as profile_heads
