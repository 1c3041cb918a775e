#include "tests/bench/roofline.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"

namespace lift::bench {
namespace {

constexpr double kLeft = 80, kTop = 70, kWidth = 560, kHeight = 400, kLegend = 660;
constexpr const char* kColors[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                   "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"};

// Whole decades around what is shown.
struct Axis {
  double low = 0, high = 1;  // logarithms to base 10
  Axis(double least, double most)
      : low(std::floor(std::log10(least))), high(std::ceil(std::log10(most))) {
    if (high <= low) high = low + 1;
  }
  double At(double value) const { return (std::log10(value) - low) / (high - low); }
};

class Picture {
 public:
  Picture(Axis x, Axis y) : x_(x), y_(y) {
    svg_ =
        "<svg xmlns='http://www.w3.org/2000/svg' width='1100' height='540' "
        "font-family='sans-serif' "
        "font-size='13'>\n<rect width='1100' height='540' fill='white'/>\n<text x='80' y='28'>"
        "Roofline of one decode step; a dot's area is its share of the time</text>\n";
    for (double d = x.low; d <= x.high; ++d) {
      const double at = X(std::pow(10, d));
      Line(at, kTop, at, kTop + kHeight, "#ddd", 1);
      Text(at - 10, kTop + kHeight + 20, absl::StrFormat("%g", std::pow(10, d)), "black");
    }
    for (double d = y.low; d <= y.high; ++d) {
      const double at = Y(std::pow(10, d));
      Line(kLeft, at, kLeft + kWidth, at, "#ddd", 1);
      Text(20, at + 4, absl::StrFormat("%g", std::pow(10, d - 9)), "black");
    }
    Text(kLeft + 180, kTop + kHeight + 45, "multiply-adds for a byte read", "black");
    Text(20, kTop - 16, "10^9 multiply-adds a second", "black");
  }

  double X(double value) const { return kLeft + kWidth * x_.At(value); }
  double Y(double value) const { return kTop + kHeight * (1 - y_.At(value)); }
  void Line(double x1, double y1, double x2, double y2, const char* color, int width) {
    absl::StrAppendFormat(&svg_,
                          "<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='%s' "
                          "stroke-width='%d'/>\n",
                          x1, y1, x2, y2, color, width);
  }
  void Text(double x, double y, const std::string& text, const char* color) {
    absl::StrAppendFormat(&svg_, "<text x='%.1f' y='%.1f' fill='%s'>%s</text>\n", x, y, color,
                          text);
  }
  void Dot(double x, double y, double radius, const char* color) {
    absl::StrAppendFormat(&svg_,
                          "<circle cx='%.1f' cy='%.1f' r='%.1f' fill='%s' fill-opacity='.6'/>\n", x,
                          y, radius, color);
  }
  std::string Take() { return std::move(svg_) + "</svg>\n"; }

 private:
  Axis x_, y_;
  std::string svg_;
};

}  // namespace

std::string RooflineSvg(std::span<const Phase> phases, double read_bandwidth, double peak) {
  std::vector<Phase> shown;
  double step = 0, least_x = peak / read_bandwidth, most_x = least_x, least_y = peak;
  for (const Phase& p : phases) {
    step += p.seconds;
    if (p.bytes <= 0 || p.multiply_adds <= 0 || p.seconds <= 0) continue;
    shown.push_back(p);
    least_x = std::min(least_x, p.multiply_adds / p.bytes);
    most_x = std::max(most_x, p.multiply_adds / p.bytes);
    least_y = std::min(least_y, p.multiply_adds / p.seconds);
  }
  const Axis x(least_x / 2, most_x * 2), y(least_y / 2, peak * 2);
  Picture picture(x, y);
  const double ridge = peak / read_bandwidth;
  const double first = std::max(std::pow(10, x.low), std::pow(10, y.low) / read_bandwidth);
  picture.Line(picture.X(first), picture.Y(first * read_bandwidth), picture.X(ridge),
               picture.Y(peak), "black", 2);
  picture.Line(picture.X(ridge), picture.Y(peak), kLeft + kWidth, picture.Y(peak), "black", 2);
  picture.Text(kLegend, kTop + 10, absl::StrFormat("read loop %.1f GB/s", read_bandwidth * 1e-9),
               "black");
  picture.Text(kLegend, kTop + 30,
               absl::StrFormat("signs in cache %.0f x 10^9 a second", peak * 1e-9), "black");
  double line = kTop + 60;
  size_t color = 0;
  for (const Phase& p : shown) {
    const double intensity = p.multiply_adds / p.bytes, rate = p.multiply_adds / p.seconds;
    const double roof = std::min(peak, intensity * read_bandwidth);
    const char* const shade = kColors[color++ % std::size(kColors)];
    picture.Dot(picture.X(intensity), picture.Y(rate), 3 + 25 * std::sqrt(p.seconds / step), shade);
    picture.Text(kLegend, line,
                 absl::StrFormat("%s: %.0f%% of its roof, %.0f%% of the time", p.name,
                                 100 * rate / roof, 100 * p.seconds / step),
                 shade);
    line += 20;
  }
  return picture.Take();
}

}  // namespace lift::bench
