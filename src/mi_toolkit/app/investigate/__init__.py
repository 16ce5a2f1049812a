"""The fourth section: ablate heads, ask which tokens count, set a second model beside the first."""

from mi_toolkit.app.investigate.section import investigate_section as investigate_section
