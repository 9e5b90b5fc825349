// What the pictures are drawn with: an SVG image of 800 × 450 with a frame for a chart.
#pragma once

#include <string>
#include <vector>

#include "train/plot_axis.h"

namespace crnet::detail {

inline constexpr double kWidth = 800, kHeight = 450;
inline constexpr double kLeft = 62, kRight = 776, kTop = 76, kBottom = 398;  // of the frame

/// Opens the image: styles, a white ground, the title. "</svg>" closes it.
std::string svg_head(const std::string& title);

/// `style` is what goes into the tag, such as a class: title, legend or tick.
std::string text_at(double x, double y, const char* style, const std::string& text);
std::string line(double x1, double y1, double x2, double y2, const char* colour);
std::string dot(double x, double y, const char* colour);

/// The frame's left and lower edge, lines and numbers at the ticks, and what the axes mean.
std::string axes(const Axis& x, const std::vector<double>& x_ticks, const std::string& x_title,
                 const Axis& y, const std::vector<double>& y_ticks, const std::string& y_title);

}  // namespace crnet::detail
