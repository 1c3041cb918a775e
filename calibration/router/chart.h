// A small line chart as SVG: linear x, logarithmic y.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lift {

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // y > 0; others are left out
};

std::string LineChart(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<ChartLine>& lines);

}  // namespace lift
