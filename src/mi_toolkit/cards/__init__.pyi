from .card import HeadCard as HeadCard
from .card import head_card as head_card
from .profile import HeadProfiles as HeadProfiles
from .profile import profile_heads as profile_heads
