"""jaxcnn: a JAX functional research framework for convolutional networks.

Importing this package imports nothing heavy; take what you need from ``jaxcnn.ops``,
``jaxcnn.layers``, ``jaxcnn.models``, ``jaxcnn.train`` or ``jaxcnn.runs``.
"""

__version__ = "0.1.0"
