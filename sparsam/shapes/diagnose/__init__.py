def explain_failure(failure, witness, requirement):
    return "framework", f"{failure.operation}: {failure.text}", "", ""
