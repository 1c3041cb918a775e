// What the qualities of calibration mean.
#pragma once

#include <cstdint>

#include "calibration/calibrator.h"

namespace lift {

struct QualityPreset {
  int beam, block, lag;  // EncoderOptions
  double second_look;
  int64_t probe_tokens;  // that sensitivities are measured on
  bool per_tensor;       // SensitivityOptions
};

inline QualityPreset PresetOf(CalibrationQuality quality) {
  switch (quality) {
    case CalibrationQuality::kFast:
      return {32, 16, 48, 0, 256, false};
    case CalibrationQuality::kDefault:
      return {64, 16, 48, 4, 512, false};
    default:
      return {256, 16, 48, 0, 1024, true};
  }
}

}  // namespace lift
