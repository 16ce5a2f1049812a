from .jobs import Job as Job
from .jobs import jobs_over as jobs_over
from .jobs import read_study as read_study
from .results import SweepResults as SweepResults
from .results import open_sweep as open_sweep
from .run import sweep as sweep
from .training import HeadDynamics as HeadDynamics
from .training import dynamics as dynamics
