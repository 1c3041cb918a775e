// Converters write Mistral as a GGUF "llama"; only its Hugging Face form has a name of its own.
#include "server/model/checkpoint/families/families.h"

namespace lift::families {

Architecture Mistral() {
  Architecture a{"mistral", "MistralForCausalLM", "", {}, {}};
  a.sliding_window = true;
  return a;
}

}  // namespace lift::families
