"""Pictures by matplotlib, whose only door this is: for papers and slides."""

from __future__ import annotations

from mi_toolkit.draw.figures.ablation import effect_picture as effect_picture
from mi_toolkit.draw.figures.ablation import length_curve as length_curve
from mi_toolkit.draw.figures.ablation import sweep_grid as sweep_grid
from mi_toolkit.draw.figures.ablation import sweep_map as sweep_map
from mi_toolkit.draw.figures.ablation import sweep_maps as sweep_maps
from mi_toolkit.draw.figures.comparison import comparison_grid as comparison_grid
from mi_toolkit.draw.figures.comparison import run_comparison_figure as run_comparison_figure
from mi_toolkit.draw.figures.comparison import scaling_figure as scaling_figure
from mi_toolkit.draw.figures.comparison import stimulus_grid as stimulus_grid
from mi_toolkit.draw.figures.confirmation import confirmation_figure as confirmation_figure
from mi_toolkit.draw.figures.confirmation import untrained_figure as untrained_figure
from mi_toolkit.draw.figures.generation import generation_figure as generation_figure
from mi_toolkit.draw.figures.grids import weight_maps as weight_maps
from mi_toolkit.draw.figures.heads import labels_by_depth as labels_by_depth
from mi_toolkit.draw.figures.heads import locality_histogram as locality_histogram
from mi_toolkit.draw.figures.heads import pattern_grid as pattern_grid
from mi_toolkit.draw.figures.heads import pattern_map as pattern_map
from mi_toolkit.draw.figures.maps import head_map as head_map
from mi_toolkit.draw.figures.maps import label_map as label_map
from mi_toolkit.draw.figures.maps import label_picture as label_picture
from mi_toolkit.draw.figures.maps import report_grid as report_grid
from mi_toolkit.draw.figures.maps import scope_map as scope_map
from mi_toolkit.draw.figures.patching import attribution_maps as attribution_maps
from mi_toolkit.draw.figures.patching import direct_map as direct_map
from mi_toolkit.draw.figures.patching import edge_figure as edge_figure
from mi_toolkit.draw.figures.patching import patching_map as patching_map
from mi_toolkit.draw.figures.prompt import attribution_figure as attribution_figure
from mi_toolkit.draw.figures.prompt import pipeline_figure as pipeline_figure
from mi_toolkit.draw.figures.prompt import position_figure as position_figure
from mi_toolkit.draw.figures.style import as_svg as as_svg
from mi_toolkit.draw.figures.style import house_style as house_style
from mi_toolkit.draw.figures.style import save_figure as save_figure
from mi_toolkit.draw.figures.style import sheet_of as sheet_of
from mi_toolkit.draw.figures.verification import verification_figure as verification_figure
from mi_toolkit.draw.figures.weights import dose_curve as dose_curve
from mi_toolkit.draw.figures.weights import dose_figure as dose_figure
from mi_toolkit.draw.figures.weights import fidelity_figure as fidelity_figure
from mi_toolkit.draw.figures.weights import head_figure as head_figure
from mi_toolkit.draw.figures.weights import layer_figure as layer_figure
from mi_toolkit.draw.figures.weights import stability_figure as stability_figure
