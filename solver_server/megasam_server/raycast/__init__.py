"""A small ray caster with exact ground truth: the demo and the benchmarks film their clips with it.

World axes follow the cameras' (OpenCV): x right, **y down**, z into the picture; a level camera
that looks along +z has the identity rotation. The floor is y = 0, so heights are negative y.
Metres.
"""
