"""Figures beside their rivals, from one run, alternating. Nothing here is part of a serving mesh."""
