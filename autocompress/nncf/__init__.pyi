from autocompress.engines.local.factory import (
    create_accuracy_aware_training_loop as create_accuracy_aware_training_loop,
)
from autocompress.engines.local.loop import (
    AdaptiveCompressionTrainingLoop as AdaptiveCompressionTrainingLoop,
)
from autocompress.engines.local.loop import (
    EarlyExitCompressionTrainingLoop as EarlyExitCompressionTrainingLoop,
)
from autocompress.nncf.config import CompressionConfig as CompressionConfig
from autocompress.nncf.controller import CompressionController as CompressionController
from autocompress.nncf.controller import CompressionStage as CompressionStage
from autocompress.nncf.create import (
    create_compressed_model as create_compressed_model,
)
from autocompress.nncf.create import (
    load_state as load_state,
)
from autocompress.nncf.create import (
    register_default_init_args as register_default_init_args,
)
