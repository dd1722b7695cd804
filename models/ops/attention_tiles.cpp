#include "models/ops/attention_tiles.h"

#include "models/ops/element.h"
#include "models/ops/isa.h"

namespace sluice::models {

extern const AttentionTiles attention_tiles_v1[kElementTypes];
extern const AttentionTiles attention_tiles_v3[kElementTypes];
extern const AttentionTiles attention_tiles_v4[kElementTypes];

const AttentionTiles& attention_tiles(Dtype dtype) {
  const size_t type = element_type(dtype);
  switch (best_isa()) {
    case Isa::v4:
      return attention_tiles_v4[type];
    case Isa::v3:
      return attention_tiles_v3[type];
    case Isa::v1:
      break;
  }
  return attention_tiles_v1[type];
}

}  // namespace sluice::models
