#include "calibration/router/chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lift {
namespace {

constexpr double kLeft = 70, kTop = 40, kWidth = 620, kHeight = 360;
constexpr const char* kColors[] = {"#d62728", "#1f77b4", "#999999",
                                   "#2ca02c", "#9467bd", "#ff7f0e"};

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void Add(double x) { low = std::min(low, x), high = std::max(high, x); }
  double Share(double x) const { return high > low ? (x - low) / (high - low) : 0.5; }
};

std::string Axes(const Range& x, const Range& log_y, const std::string& x_label,
                 const std::string& y_label) {
  std::string out;
  for (double tick = std::ceil(x.low); tick <= x.high; ++tick) {
    const double at = kLeft + kWidth * x.Share(tick);
    absl::StrAppendFormat(&out,
                          "<line x1='%.1f' y1='%g' x2='%.1f' y2='%g' stroke='#eee'/>"
                          "<text x='%.1f' y='%g' text-anchor='middle'>%g</text>\n",
                          at, kTop, at, kTop + kHeight, at, kTop + kHeight + 18, tick);
  }
  for (double tick = std::ceil(log_y.low); tick <= log_y.high; ++tick) {
    const double at = kTop + kHeight * (1 - log_y.Share(tick));
    absl::StrAppendFormat(&out,
                          "<line x1='%g' y1='%.1f' x2='%g' y2='%.1f' stroke='#eee'/>"
                          "<text x='%g' y='%.1f' text-anchor='end'>%g</text>\n",
                          kLeft, at, kLeft + kWidth, at, kLeft - 8, at + 4, std::pow(10.0, tick));
  }
  absl::StrAppendFormat(&out,
                        "<text x='%g' y='%g' text-anchor='middle'>%s</text>"
                        "<text x='16' y='%g' transform='rotate(-90 16 %g)' "
                        "text-anchor='middle'>%s</text>\n",
                        kLeft + kWidth / 2, kTop + kHeight + 38, x_label, kTop + kHeight / 2,
                        kTop + kHeight / 2, y_label);
  return out;
}

}  // namespace

std::string LineChart(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<ChartLine>& lines) {
  Range x, y;
  for (const ChartLine& line : lines) {
    for (const auto& [px, py] : line.points) {
      if (py > 0) x.Add(px), y.Add(std::log10(py));
    }
  }
  std::string out = absl::StrFormat(
      "<svg xmlns='http://www.w3.org/2000/svg' width='860' height='460' "
      "font-family='sans-serif' font-size='13'>\n<rect width='860' height='460' fill='white'/>\n"
      "<text x='%g' y='24' font-size='15'>%s</text>\n",
      kLeft, title);
  if (x.high >= x.low) out += Axes(x, y, x_label, y_label);
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* color = kColors[i % std::size(kColors)];
    std::string points;
    for (const auto& [px, py] : lines[i].points) {
      if (!(py > 0)) continue;
      absl::StrAppendFormat(&points, "%.1f,%.1f ", kLeft + kWidth * x.Share(px),
                            kTop + kHeight * (1 - y.Share(std::log10(py))));
    }
    const double legend = kTop + 10 + 20 * static_cast<double>(i);
    absl::StrAppendFormat(&out,
                          "<polyline points='%s' fill='none' stroke='%s' stroke-width='2'/>"
                          "<line x1='%g' y1='%g' x2='%g' y2='%g' stroke='%s' stroke-width='3'/>"
                          "<text x='%g' y='%g'>%s</text>\n",
                          points, color, kLeft + kWidth + 14, legend, kLeft + kWidth + 34, legend,
                          color, kLeft + kWidth + 40, legend + 4, lines[i].name);
  }
  return out + "</svg>\n";
}

}  // namespace lift
