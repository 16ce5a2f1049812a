from .verify import Verification as Verification
from .verify import verify_model as verify_model
