// The picture of what recomputation costs and saves.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "crnet/train/planner.h"

namespace crnet {

/// Peak memory against the time of a step, as an SVG image of 800 × 450: a line through `front`, a
/// named dot for each of `strategies`, whose first is what the times are compared with. Throws
/// Error where there is none.
[[nodiscard]] std::string render_plan_svg(const std::vector<PlanEstimate>& strategies,
                                          const std::vector<PlanEstimate>& front,
                                          const std::string& title);

/// Writes render_plan_svg's image; a reader never sees a part of it. Throws Error that names
/// `path`.
void write_plan_svg(const std::filesystem::path& path, const std::vector<PlanEstimate>& strategies,
                    const std::vector<PlanEstimate>& front, const std::string& title);

}  // namespace crnet
