# Sourced by tests in bash: a case is a sentence and a command; its output is shown when it fails, and the others go on.

cases_passed=0 cases_failed=0
check() { # check SENTENCE COMMAND...
  local sentence=$1 said status
  shift
  said=$(mktemp)
  # Not as a condition: `set -e` means nothing inside of one.
  set +e
  (
    set -e
    "$@"
  ) > "$said" 2>&1
  status=$?
  set -e
  if [ $status = 0 ]; then
    echo "test $sentence ... ok"
    cases_passed=$((cases_passed + 1))
  else
    echo "test $sentence ... FAILED"
    sed 's/^/    /' "$said"
    cases_failed=$((cases_failed + 1))
  fi
  rm -f "$said"
}
# The last line, which e2e/test adds up as it does cargo's.
finish() {
  local result=ok
  [ $cases_failed = 0 ] || result=FAILED
  echo "test result: $result. $cases_passed passed; $cases_failed failed"
  [ $cases_failed = 0 ]
}
