"""Pictures of attention and of head reports, for notebooks, files and papers."""

from __future__ import annotations

from mi_toolkit.draw.attention import AttentionView as AttentionView
from mi_toolkit.draw.attention import view_attention as view_attention
from mi_toolkit.draw.comparison import view_comparison as view_comparison
from mi_toolkit.draw.comparison import view_stimuli as view_stimuli
from mi_toolkit.draw.comparison import view_sweep as view_sweep
from mi_toolkit.draw.page import Page as Page
from mi_toolkit.draw.report import ReportView as ReportView
from mi_toolkit.draw.report import view_report as view_report
from mi_toolkit.draw.statistics import StatisticsView as StatisticsView
from mi_toolkit.draw.statistics import view_statistics as view_statistics
