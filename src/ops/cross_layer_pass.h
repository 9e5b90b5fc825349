// The passes over dY, the gradient of a projection's output, that the cross-layer path wants.
#pragma once

namespace crnet {

enum class CrossLayerPass {
  kDot,    ///< dY = dy; `out` is not looked at
  kScale,  ///< dY = dy, out = c · dY
  kAdd,    ///< out = dY = dy + c · out
};

}  // namespace crnet
