"""Three real servers behind gRPC's own client-side balancer, with the service config that deploy/clients tells users to take: one
is killed under load, comes back, and another drains. Run by CTest through LIFT_TEST_PYTHON."""

import collections
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
import unittest

if not os.environ.get("LIFT_TEST_PYTHON"):
    print("SKIPPED: LIFT_TEST_PYTHON is unset; tests/run.sh makes an environment with grpcio and sets it")
    sys.exit(77)

import harness

FOLDER = tempfile.TemporaryDirectory()
harness.generate_stubs(FOLDER.name)

import grpc  # noqa: E402
from liftserve.v1 import generation_pb2 as api  # noqa: E402
from liftserve.v1 import generation_pb2_grpc, types_pb2  # noqa: E402

MODEL = harness.make_lifted_model(pathlib.Path(FOLDER.name), harness.make_random_checkpoint(pathlib.Path(FOLDER.name) / "hf"),
                                  bits="3")
CONFIG = json.loads((harness.SOURCE / "deploy/clients/service_config.json").read_text(encoding="utf-8"))
TOKENS = 60
STREAMS = 12
SERVERS = 3


class Replica:
    """A server on an address of its own; its log of requests says what it finished and how."""

    def __init__(self, number):
        self.number, self.address, self.logs, self.start_count = number, f"127.0.0.{number + 1}:0", [], 0
        self.start()

    def start(self):
        self.start_count += 1
        self.log = pathlib.Path(FOLDER.name) / f"requests-{self.number}-{self.start_count}-{time.monotonic_ns()}"
        self.server = harness.Server(MODEL, "--request-log", str(self.log), "--threads", "1", "--drain-seconds", "60",
                                     listen=self.address)
        self.address = self.server.address  # the same port again

    def finished(self):
        """{request id: line} of this process; only whole lines, a killed process may leave half of one."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
        return {line["request_id"]: line for line in lines if line["event"] == "request" and line["tenant"] == "default"}

    def running(self):
        for line in self.server.get("/metrics")[1].splitlines():
            if line.startswith("liftserve_requests_running "):
                return float(line.split()[1])
        return 0


class Load:
    """STREAMS streams at a time over one channel. `whole` and `broken` hold the ids, `broken` with the messages seen before."""

    def __init__(self, replicas, config):
        target = "ipv4:" + ",".join(r.address for r in replicas)
        self.channel = grpc.insecure_channel(target, [("grpc.service_config", json.dumps(config)),
                                                      ("grpc.initial_reconnect_backoff_ms", 100),
                                                      ("grpc.max_reconnect_backoff_ms", 500)])
        self.stub = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.lock, self.stopped, self.whole, self.broken = threading.Lock(), threading.Event(), [], {}
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(STREAMS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        asked = 0
        while not self.stopped.is_set():
            name, messages, tokens, asked = f"{number}-{asked}", 0, 0, asked + 1
            request = api.GenerateStreamRequest(
                request_id=name, text="One, two,", output=types_pb2.OutputOptions(token_ids=True),
                stopping=types_pb2.StoppingOptions(max_new_tokens=TOKENS, ignore_eos=True))
            try:
                for event in self.stub.GenerateStream(request, timeout=120, wait_for_ready=True):
                    messages += 1
                    tokens += len(event.delta.token_ids)
            except grpc.RpcError as error:
                with self.lock:
                    self.broken[name] = (error.code(), messages)
                continue
            with self.lock:
                self.whole.append(name)
                assert tokens == TOKENS, f"{name} ended well with {tokens} tokens"

    def wait_for_more(self, answers):
        goal = len(self.whole) + answers
        harness.until(f"{answers} more answers", lambda: len(self.whole) >= goal, 120)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        self.channel.close()


class Balanced(unittest.TestCase):
    def setUp(self):
        self.replicas = [Replica(i) for i in range(SERVERS)]
        self.addCleanup(lambda: [r.server.__exit__() for r in self.replicas])

    def start_load(self, config):
        load = Load(self.replicas, config)
        self.addCleanup(load.stop)
        harness.until("every server to answer", lambda: all(len(r.finished()) > 2 for r in self.replicas))
        return load

    def check_whole(self, replicas, load):
        """Each whole answer was finished by exactly one of these processes' logs, and none of theirs ended badly."""
        logs = [log for r in replicas for log in [r.finished()]]
        by_id = collections.Counter(name for log in logs for name in log)
        self.assertEqual([name for name, times in by_id.items() if times > 1], [])
        for log in logs:
            for name, line in log.items():
                self.assertEqual((line["code"], line["gen_ai.usage.output_tokens"]), ("OK", TOKENS), name)
                self.assertNotIn(name, load.broken)
        return by_id

    def kill_one(self, config):
        load = self.start_load(config)
        victim, *others = self.replicas
        harness.until("streams on the one that dies", lambda: victim.running() >= 1)
        victim.server.process.kill()
        victim.server.process.wait()
        load.wait_for_more(10 * STREAMS)
        done_by_victim = victim.finished()
        # What broke had begun to show its answer and was the dead server's; all else went on, or began again elsewhere.
        self.assertTrue(all(code == grpc.StatusCode.UNAVAILABLE and messages > 0 for code, messages in load.broken.values()), load.broken)
        self.assertLessEqual(len(load.broken), STREAMS)
        broken = len(load.broken)
        victim.server.__exit__()
        victim.start()
        harness.until("the one that came back to answer", lambda: len(victim.finished()) > 2)
        load.stop()
        self.assertEqual(len(load.broken), broken)
        harness.until("the logs", lambda: set(load.whole) <= {n for r in self.replicas for n in r.finished()} | set(done_by_victim))
        self.check_whole(self.replicas, load)
        for replica in others:
            self.assertGreater(len(replica.finished()), 10)
        print(f"{list(config['loadBalancingConfig'][0])[0]}: {len(load.whole)} answers whole by "
              f"{[len(r.finished()) for r in self.replicas]} (+{len(done_by_victim)} before the kill); {broken} broke with the server",
              flush=True)

    def test_weighted_round_robin_survives_a_kill(self):
        self.kill_one(CONFIG)

    def test_round_robin_survives_a_kill(self):
        self.kill_one({**CONFIG, "loadBalancingConfig": [{"round_robin": {}}]})

    def test_a_server_that_drains_loses_nothing(self):
        load = self.start_load(CONFIG)
        leaver = self.replicas[0]
        harness.until("streams on the one that leaves", lambda: leaver.running() >= 1)
        leaver.server.terminate()
        self.assertEqual(leaver.server.wait(), 0)
        load.wait_for_more(3 * STREAMS)
        load.stop()
        self.assertEqual(load.broken, {})
        harness.until("the logs", lambda: set(load.whole) <= {n for r in self.replicas for n in r.finished()})
        self.check_whole(self.replicas, load)


class Config(unittest.TestCase):
    def test_only_reads_and_streams_are_retried(self):
        """What is retried is named, exists, and is neither a unary generation nor a change."""
        from google.protobuf import descriptor_pool
        from liftserve.v1 import model_pb2, usage_pb2  # noqa: F401  (their services into the pool)
        retried = set()
        for method in CONFIG["methodConfig"]:
            for name in method["name"]:
                service = descriptor_pool.Default().FindServiceByName(name["service"])
                known = {m.name for m in service.methods}
                self.assertLessEqual({name["method"]} if "method" in name else set(), known)
                retried |= {name["method"]} if "method" in name else known
        self.assertEqual(retried, {"GenerateStream", "ChatStream", "Tokenize", "Detokenize", "ExplainRoute", "ListModels", "GetModel",
                                   "GetUsage", "ListUsageRecords", "ListRoutingDecisions"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
