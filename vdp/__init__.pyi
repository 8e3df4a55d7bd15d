from vdp.api import Model as Model
from vdp.api import Sampling as Sampling
from vdp.api import load as load
from vdp.learn import train as train
