// Says what Flux makes of Kubernetes objects: with expressions those of a Kustomization's healthCheckExprs, else kstatus.
//
// It reads {"objects": […], "expressions": {"current": …, "failed": …, "inProgress": …} or null} and prints the states.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type question struct {
	Objects     []*unstructured.Unstructured      `json:"objects"`
	Expressions *kustomize.HealthCheckExpressions `json:"expressions"`
}

func main() {
	var asked question
	check(json.NewDecoder(os.Stdin).Decode(&asked))
	var evaluator *cel.StatusEvaluator
	if asked.Expressions != nil {
		var err error
		evaluator, err = cel.NewStatusEvaluator(asked.Expressions)
		check(err)
	}
	states := make([]status.Status, 0, len(asked.Objects))
	for _, object := range asked.Objects {
		states = append(states, state(object, evaluator))
	}
	check(json.NewEncoder(os.Stdout).Encode(states))
}

func state(object *unstructured.Unstructured, evaluator *cel.StatusEvaluator) status.Status {
	var result *status.Result
	var err error
	if evaluator == nil {
		result, err = status.Compute(object)
	} else {
		result, err = evaluator.Evaluate(context.Background(), object)
	}
	if err != nil { // as Flux's status reader does, which then looks again
		return status.UnknownStatus
	}
	return result.Status
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
