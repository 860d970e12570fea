"""The families of models that are read and written, one short file of data each.

A config that several families have fields for is exported as the first.
"""

from thetahat.interop.families.albert import ALBERT
from thetahat.interop.families.bart import BART, MARIAN, MBART
from thetahat.interop.families.bert import BERT
from thetahat.interop.families.bloom import BLOOM
from thetahat.interop.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from thetahat.interop.families.distilbert import DISTILBERT
from thetahat.interop.families.electra import ELECTRA
from thetahat.interop.families.experts import GLM4_MOE, MIXTRAL, OLMOE, QWEN3_MOE
from thetahat.interop.families.gemma2 import GEMMA2
from thetahat.interop.families.gemma3 import GEMMA3
from thetahat.interop.families.gpt2 import GPT2
from thetahat.interop.families.gpt_neox import GPT_NEOX
from thetahat.interop.families.granite import GRANITE
from thetahat.interop.families.llama import LLAMA
from thetahat.interop.families.mistral import MISTRAL
from thetahat.interop.families.modernbert import MODERNBERT
from thetahat.interop.families.olmo2 import OLMO2
from thetahat.interop.families.phi3 import PHI3
from thetahat.interop.families.qwen2 import QWEN2
from thetahat.interop.families.qwen3 import QWEN3
from thetahat.interop.families.roberta import ROBERTA, XLM_ROBERTA
from thetahat.interop.families.smollm3 import SMOLLM3
from thetahat.interop.families.t5 import MT5, T5

FAMILIES = (
    *(LLAMA, QWEN2, QWEN3, MISTRAL, GPT2, GPT_NEOX, PHI3, OLMO2, SMOLLM3, GEMMA2, GEMMA3, GRANITE, BLOOM),
    *(MIXTRAL, QWEN3_MOE, OLMOE, GLM4_MOE, DEEPSEEK_V3, DEEPSEEK_V2),
    *(BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA, ALBERT, MODERNBERT, T5, MT5, BART, MBART, MARIAN),
)
"""All of them."""
