"""A rule for the IDs of new devices, which no option of the contract can declare."""

import re

DOT_SEGMENT_PROBLEM = (
    'must not have a segment "." or "..", because REST clients normalize it to another path'
)

# As in sql/functions/internal/has_dot_segment.sql.
has_dot_segment = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)").search
"""Returns something true if a text has a segment "." or "..", separated by "/" or a backslash."""
