"""All planted faults, by name."""

from programs.image_faults import IMAGE_FAULTS
from programs.sequence_faults import SEQUENCE_FAULTS

FAULTS = {fault.name: fault for fault in (*IMAGE_FAULTS, *SEQUENCE_FAULTS)}
