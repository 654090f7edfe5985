"""What a careless change of the policy would look like: each has to turn a test red."""

from tests.mutants.mutant import Mutant

BYPASSES = ("tests/conformance/test_bypasses.py",)
TRUTH = ("tests/conformance/test_truth_table.py",)
SDKS = ("tests/conformance/test_sdk_requests.py",)
DECIDE = ("tests/policy/test_decide.py",)
CHATS = ("tests/wire/dialects/test_chat_completions.py",)
ROUTE, JUDGE = ("tests/relay/test_route.py",), ("tests/relay/test_judge.py",)

FIELDS, BODY = "proxy/wire/dialects/limit_fields.py", "proxy/wire/dialects/request_body.py"
DECIDING, DISARM, RULES = "proxy/policy/decide.py", "proxy/policy/disarm.py", "proxy/policy/rules.py"
JUDGING, ROUTING = "proxy/relay/judge.py", "proxy/relay/route.py"

MUTANTS = (
    # which limits there are
    Mutant("a limit field is forgotten", FIELDS, '    "n_predict",\n    "num_predict",\n', '    "num_predict",\n', BYPASSES),
    Mutant("a limit inside an object is forgotten", FIELDS, '    "options.num_predict",\n', "", BYPASSES),
    Mutant("extra_body is forgotten", FIELDS, '    *(f"extra_body.{path}" for path in _PATHS),', "", BYPASSES),
    Mutant("minus one is a limit like others", FIELDS, 'frozenset(("n_predict", "num_predict"))', "frozenset(())", BYPASSES),
    Mutant("other spellings are other members", BODY, "if path not in spellings[alike]:", "if False:", BYPASSES),
    Mutant("only the top level is looked at for spellings", BODY, "if type(value) is dict and (meant :=", "if None and (meant :=", BYPASSES),
    Mutant("the last of two limits counts", BODY, "else places.values(path)\n", "else places.values(path)[-1:]\n", BYPASSES),
    Mutant("two limits are no fault", BODY, 'fault = fault or ("limit_twice", path)', "pass", BYPASSES),
    Mutant("two models are no fault", BODY, '                return "ambiguous_key", name\n', "                pass\n", BYPASSES),
    Mutant("two objects are no fault", BODY, 'return "ambiguous_key", path', "pass", BYPASSES),
    Mutant("a limit of another type is no fault", BODY, 'fault = fault or ("limit_type", path)', "pass", BYPASSES),
    Mutant("zero is a limit like others", BODY, 'fault = "limit_zero", next(', "_ = next(", BYPASSES),
    Mutant("zero is never a limit", BODY, 'return dialect == "messages" or (', "return False and (", SDKS),
    Mutant("NaN and a byte order mark are valid", BODY, "            degraded = LENIENT\n", "            pass\n", BYPASSES),
    Mutant("names are cut nowhere", FIELDS, 'return name.partition("\\0")[0].translate', "return name.translate", BYPASSES),
    # what is decided
    Mutant("a limit is raised to the cap", DECIDING, "else min(requested, cap)", "else max(requested, cap)", TRUTH),
    Mutant("only the first limit counts", DECIDING, "above = _limits_read(facts)[_LARGEST] > cap", "above = requested is None or requested > cap", BYPASSES),
    Mutant("a shadow rule acts", DECIDING, "among = armed if rule.enforces and rule.name", "among = armed if rule.name", TRUTH),
    Mutant("a disarmed rule acts", DECIDING, "rule.enforces and rule.name not in disarmed else", "rule.enforces else", TRUTH),
    Mutant("a disarmed rule still refuses bodies", DECIDING, "not rule.enforces or rule.name in live.disarmed or", "not rule.enforces or", JUDGE),
    Mutant("a shadow rule refuses bodies", DECIDING, "if not rule.enforces or rule.name in", "if rule.name in", BYPASSES),
    Mutant("an exemption ends no search", DECIDING, "        if _OF_BODY.isdisjoint(keys):\n            return False\n", "", BYPASSES),
    Mutant("an arm is drawn and forgotten", DECIDING, "None if arm is None or arm == NO_ARM else int(arm))", "None)", DECIDE),
    Mutant("every rule draws the same arm", DECIDING, 'key = f"{rule.name} ', 'key = f"', DECIDE),
    Mutant("responses go below their least limit", DECIDING, 'if facts.dialect == "responses":', "if False:", TRUTH),
    Mutant("an absent completions limit is raised", DECIDING, "if is_16_at_most and cap >=", "if False and cap >=", TRUTH),
    Mutant("nothing is inserted", DECIDING, 'if rule.when_absent == "leave" or', "if True or", BYPASSES),
    Mutant("a limit is inserted where none is wanted", DECIDING, 'if rule.when_absent == "leave" or', "if", TRUTH),
    Mutant("a budget of thinking conflicts with nothing", DECIDING, "budget = facts.thinking_budget_tokens", "budget = None", BYPASSES),
    Mutant("choices are free", DECIDING, "facts.choices > rule.max_choices", "False", BYPASSES),
    Mutant("a floor is a ceiling", DECIDING, "max(law.tokens_within(deadline_s), rule.floor)", "min(law.tokens_within(deadline_s), rule.floor)", DECIDE),
    Mutant("every rule takes the request's deadline", DECIDING, "origin.deadline_s if rule.deadline_header else None", "origin.deadline_s", DECIDE),
    Mutant("an unnamed model is no model", DECIDING, "else not matches or any(matches)", "else any(matches)", DECIDE),
    Mutant("an exemption holds for an unnamed model", DECIDING, "return bool(matches) and all(matches)", "return all(matches)", DECIDE),
    Mutant("the path names no model", DECIDING, "for name in (facts.model, origin.deployment)", "for name in (facts.model,)", DECIDE),
    Mutant("a generous rule ends the search for a limit that nobody reads", DECIDING, "if sure and read[_SMALLEST] > over:", "if sure:", DECIDE),
    Mutant("headers are left out of the memory", DECIDING, "origin.key, headers, disarmed)", "origin.key, disarmed)", DECIDE),
    Mutant("disarmed rules are left out of the memory", DECIDING, "origin.key, headers, disarmed)", "origin.key, headers)", DECIDE),
    Mutant("the memory does not know the hour", DECIDING, "        if clock and clock[0][1] != set(names):\n            policies.chosen.clear()\n", "", DECIDE),
    Mutant("a night belongs to the day on which it ends", DECIDING, "(day - 1) % 7 in when.days", "day in when.days", DECIDE),
    Mutant("a broken document becomes a policy", RULES, "    if mistakes:\n        raise SettingsError(mistakes)\n", "", ("tests/policy/test_rules.py",)),
    # when a rule stops
    Mutant("a rule is disarmed at its budget", DISARM, "self._cut > self.disarm.budget", "self._cut >= self.disarm.budget", ("tests/policy/test_disarm.py",)),
    Mutant("a rule is armed again at its whole budget", DISARM, "self.disarm.budget / 2", "self.disarm.budget", ("tests/policy/test_disarm.py",)),
    Mutant("a broken answer is one that was not cut", DISARM, "return answer.cut_by_policy if answer.whole else None", "return answer.cut_by_policy", ("tests/policy/test_disarm.py",)),
    # what is sent
    Mutant("a low limit is written anew", BODY, "not value <= most or", "True or", CHATS),
    Mutant("a limit is only lowered where it is the first", BODY, "for path, _ in facts.limits), *(", "for path, _ in facts.limits[:1]), *(", BYPASSES),
    Mutant("a least length stays above the cap", BODY, ", *((path, forwarded) for path, _ in facts.floors))", ",)", BYPASSES),
    Mutant("null stays beside an inserted limit", BODY, 'if body[found.start : found.end] == b"null"]', "if False]", CHATS),
    Mutant("a body that cannot be judged passes", JUDGING, "if facts.degraded is not None and may_enforce(", "if False and may_enforce(", BYPASSES),
    Mutant("a decoded body keeps its header", JUDGING, "decoded=bool(route.encoding))", "decoded=False)", BYPASSES),
    Mutant("the field that the upstream reads is one of many", JUDGING, "if origin.reads_only is not None and len(facts.limits) > 1:", "if False:", JUDGE),
    # what is doubted
    Mutant("any spelling of a path is as good", ROUTING, "if not is_plain(target, dialect.suffix):", "if False:", BYPASSES),
    Mutant("any charset is as good", ROUTING, "if any(each.lower() not in _CHARSETS for each in", "if any(False for each in", BYPASSES),
    Mutant("a websocket is as good", ROUTING, "        if socket is not None:\n", "        if False:\n", BYPASSES),
    Mutant("another request line is as good", ROUTING, "if meant is not None and meant is not self.dialect:", "if False:", BYPASSES),
    Mutant("unknown routes are not blocked", ROUTING, 'elif limits.unknown_routes == "block":', "elif False:", BYPASSES),
    Mutant("the deadline of a request is forwarded", "proxy/relay/worker.py", "self.private_headers = (self.app_header, DEADLINE_HEADER)", "self.private_headers = (self.app_header,)", ROUTE),
    Mutant("a deadline of another kind is none", JUDGING, "if route.bad_deadline and any(", "if False and any(", JUDGE),
)  # fmt: skip
