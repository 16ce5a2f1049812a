"""Pictures by matplotlib, whose only door this is: for papers and slides."""

from mi_toolkit.views.figures.attribution import attribution_figure as attribution_figure
from mi_toolkit.views.figures.comparison import comparison_grid as comparison_grid
from mi_toolkit.views.figures.confirmation import confirmation_figure as confirmation_figure
from mi_toolkit.views.figures.maps import head_map as head_map
from mi_toolkit.views.figures.maps import label_map as label_map
from mi_toolkit.views.figures.maps import label_picture as label_picture
from mi_toolkit.views.figures.maps import report_grid as report_grid
from mi_toolkit.views.figures.maps import scope_map as scope_map
from mi_toolkit.views.figures.patterns import pattern_grid as pattern_grid
from mi_toolkit.views.figures.sheet import as_svg as as_svg
from mi_toolkit.views.figures.sheet import save_figure as save_figure
from mi_toolkit.views.figures.stimuli import stimulus_grid as stimulus_grid
from mi_toolkit.views.figures.sweep import sweep_grid as sweep_grid
from mi_toolkit.views.figures.verification import verification_figure as verification_figure
