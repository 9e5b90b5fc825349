#include "train/svg.h"

#include "crnet/core/format.h"

namespace crnet::detail {
namespace {

std::string escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      default:
        escaped += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return escaped;
}

}  // namespace

std::string text_at(double x, double y, const char* style, const std::string& text) {
  return format("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, style, escape(text).c_str());
}

std::string line(double x1, double y1, double x2, double y2, const char* colour) {
  return format("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1,
                x2, y2, colour);
}

std::string dot(double x, double y, const char* colour) {
  return format(
      "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" stroke=\"#ffffff\" "
      "stroke-width=\"1.5\"/>\n",
      x, y, colour);
}

std::string axes(const Axis& x, const std::vector<double>& x_ticks, const std::string& x_title,
                 const Axis& y, const std::vector<double>& y_ticks, const std::string& y_title) {
  constexpr const char *kGrid = "#e6e8eb", *kFrame = "#8a9099";
  constexpr const char* kRightAligned = "text-anchor=\"end\" class=\"tick\"";
  constexpr const char* kCentred = "text-anchor=\"middle\" class=\"tick\"";
  std::string svg;
  for (const double tick : y_ticks) {
    const double at = y.position(tick);
    svg += line(kLeft, at, kRight, at, kGrid);
    svg += text_at(kLeft - 8, at + 4, kRightAligned, tick_label(tick));
  }
  for (const double tick : x_ticks) {
    const double at = x.position(tick);
    svg += line(at, kTop, at, kBottom, kGrid) + line(at, kBottom, at, kBottom + 4, kFrame);
    svg += text_at(at, kBottom + 19, kCentred, tick_label(tick));
  }
  svg += line(kLeft, kBottom, kRight, kBottom, kFrame) + line(kLeft, kTop, kLeft, kBottom, kFrame);
  svg += text_at((kLeft + kRight) / 2, kHeight - 12, kCentred, x_title);
  svg += format("<text transform=\"translate(18 %.1f) rotate(-90)\" %s>%s</text>\n",
                (kTop + kBottom) / 2, kCentred, escape(y_title).c_str());
  return svg;
}

std::string svg_head(const std::string& title) {
  return format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
             "width=\"%.0f\" height=\"%.0f\" font-family=\"system-ui, -apple-system, 'Segoe "
             "UI', 'DejaVu Sans', sans-serif\">\n<style>.title{font-size:16px;font-weight:600;"
             "fill:#1f2328}.legend{font-size:12px;fill:#3d444d}.tick{font-size:12px;"
             "fill:#59636e}</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>"
             "\n",
             kWidth, kHeight, kWidth, kHeight) +
         text_at(kLeft, 30, "class=\"title\"", title);
}

}  // namespace crnet::detail
