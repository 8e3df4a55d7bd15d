from vdp import parts as parts
from vdp.api.model import Model as Model
from vdp.api.model import load as load
from vdp.api.sampling import Sampling as Sampling
from vdp.api.train import train as train
