"""Catalograph: a catalogue in, ranked recommendations out, offline.

The command line is `catalograph.cli`, the configuration `catalograph.config`, the run folder
`catalograph.runs`.
"""

from __future__ import annotations

__version__ = "0.1.0"
