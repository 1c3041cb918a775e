#include "calibration/export/export_command.h"

#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "calibration/eval/session.h"
#include "calibration/export/onnx_export.h"
#include "calibration/export/safetensors_export.h"
#include "nlohmann/json.hpp"

namespace lift {
namespace {

struct Arguments {
  std::string file, variant, format, folder;
  int threads = 0;
  bool json = false;
};

void Describe(CLI::App& app, Arguments& a) {
  app.name("lift-calibrate export");
  app.description(
      "Writes one variant as plain float32 weights for other software.\n"
      "safetensors: a folder that transformers loads. onnx: model.onnx of standard ops, input_ids "
      "-> "
      "logits.");
  app.footer(
      "Example:\n  lift-calibrate export --file model.lift --variant q4.0 --to safetensors out/\n"
      "Exit codes: 0 done, 1 the work failed, 2 the command line or an input is wrong.");
  app.add_option("--file", a.file, "lifted file (or a checkpoint, whose only variant is full)")
      ->required();
  app.add_option("--variant", a.variant, "variant to write (default: the finest)");
  app.add_option("--to", a.format, "safetensors or onnx")
      ->required()
      ->check(CLI::IsMember({"safetensors", "onnx"}));
  app.add_option("folder", a.folder, "folder to write into; made if it is not there")->required();
  app.add_option("--threads", a.threads, "worker threads (default: all cores)")
      ->check(CLI::Range(1, 1024));
  app.add_flag("--json", a.json, "print one JSON object on stdout");
}

absl::StatusOr<std::string> Run(const Arguments& a) {
  LIFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Weights> weights, Weights::Open(a.file));
  int variant = static_cast<int>(weights->variants().size()) - 1;
  if (!a.variant.empty()) {
    LIFT_ASSIGN_OR_RETURN(variant, eval::FindVariant(*weights, a.variant));
  }
  LIFT_ASSIGN_OR_RETURN(const auto device, eval::Device::Make(a.threads, "cpu"));
  LIFT_RETURN_IF_ERROR(a.format == "onnx"
                           ? ExportOnnx(*weights, variant, *device->backend, a.folder)
                           : ExportSafetensors(*weights, variant, *device->backend, a.folder));
  return weights->variants()[static_cast<size_t>(variant)].name;
}

}  // namespace

int ExportMain(int argc, char** argv) {
  CLI::App app;
  Arguments arguments;
  Describe(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::StatusOr<std::string> variant = Run(arguments);
  if (!variant.ok()) {
    std::fprintf(stderr, "lift-calibrate export: %s\n",
                 std::string(variant.status().message()).c_str());
    return variant.status().code() == absl::StatusCode::kInternal ? 1 : 2;
  }
  if (arguments.json) {
    const nlohmann::json report = {
        {"variant", *variant}, {"format", arguments.format}, {"folder", arguments.folder}};
    std::printf("%s\n", report.dump().c_str());
  } else {
    std::printf("wrote %s as %s to %s\n", variant->c_str(), arguments.format.c_str(),
                arguments.folder.c_str());
  }
  return 0;
}

}  // namespace lift
