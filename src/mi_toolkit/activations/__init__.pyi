from .activations import Activations as Activations
from .measure import activation_statistics as activation_statistics
from .statistics import ActivationStatistics as ActivationStatistics
from .store.reader import ActivationStore as ActivationStore
from .store.reader import open_activations as open_activations
from .store.writer import record_to_disk as record_to_disk
