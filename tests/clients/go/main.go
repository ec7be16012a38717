// What a program does with the generated client: `go run . BASE_URL TOKEN`.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"time"

	"fmv.example/client/fmv"
)

// must ends the program with a message unless ok.
func must(ok bool, format string, args ...any) {
	if !ok {
		fmt.Printf(format+"\n", args...)
		os.Exit(1)
	}
}

func ptr[T any](v T) *T { return &v }

func main() {
	api, err := fmv.NewClientWithResponses(os.Args[1], fmv.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+os.Args[2])
		return nil
	}))
	must(err == nil, "%v", err)
	ctx := context.Background()
	name := "Crow T. Go"
	input := fmv.RobotInputRequest{Name: name, Location: "Satellite", Description: "d", Enabled: ptr(false), Lanes: ptr(4), Labels: &[]string{"a"}, Endpoint: ptr("http://crow.example/")}
	created, err := api.CreateRobotPostWithResponse(ctx, input)
	must(err == nil && created.JSON201 != nil && *created.JSON201.Lanes == 4, "create %v %v", err, created)
	patched, err := api.ChangeRobotNamePatchWithResponse(ctx, name, nil, fmv.PatchedRobotChangeRequest{Location: ptr("Mars")})
	must(err == nil && patched.JSON200 != nil, "patch %v", err)
	changed, err := api.FindRobotNameGetWithResponse(ctx, name)
	must(err == nil && changed.JSON200.Location == "Mars", "find %v", err)
	changed.JSON200.Location, changed.JSON200.UpdatedAt = created.JSON201.Location, created.JSON201.UpdatedAt
	must(reflect.DeepEqual(changed.JSON200, created.JSON201), "PATCH changed more than the location: %s %s", changed.Body, created.Body)
	list, err := api.ListRobotGetWithResponse(ctx, &fmv.ListRobotGetParams{Q: &name, Enabled: ptr(false)})
	must(err == nil && len(list.JSON200.Robots) == 1, "list %v", err)
	none, err := api.FindRobotNameGetWithResponse(ctx, "nobody")
	must(err == nil && none.JSON404.Detail == "Not Found", "404 %v", err)
	wrong := input
	wrong.Lanes = ptr(0)
	refused, err := api.CreateRobotPostWithResponse(ctx, wrong)
	must(err == nil && refused.JSON422 != nil, "422 %v", err)
	loc, err := refused.JSON422.Detail[0].Loc[1].AsValidationErrorLoc0()
	must(err == nil && loc == "lanes", "422 %v", err)
	taken, err := api.CreateRobotPostWithResponse(ctx, input)
	must(err == nil && taken.JSON409 != nil, "409 %v", err)
	problems, err := taken.JSON409.AsHTTPValidationError()
	must(err == nil && problems.Detail[0].Type == "name_taken", "409 %v", err)
	out, err := api.RunRobotNameRunPostWithResponse(ctx, name, nil, fmv.SubmitRequest{})
	must(err == nil && out.JSON409 != nil, "409 %v", err)
	sentence, err := out.JSON409.AsHTTPError()
	must(err == nil && sentence.Detail != "", "409 %v", err)
	_, err = api.ChangeRobotNamePatchWithResponse(ctx, name, nil, fmv.PatchedRobotChangeRequest{Enabled: ptr(true)})
	must(err == nil, "%v", err)
	task, err := api.RunRobotNameRunPostWithResponse(ctx, name, &fmv.RunRobotNameRunPostParams{IdempotencyKey: &name}, fmv.SubmitRequest{Handler: ptr("wait"), Params: &map[string]any{"seconds": 0.1}})
	must(err == nil && task.JSON200 != nil, "run %v", err)
	for tries := 0; ; tries++ {
		found, err := api.FindTaskTaskIdGetWithResponse(ctx, task.JSON200.TaskId)
		must(err == nil && found.JSON200 != nil && tries < 600, "task %v", err)
		if found.JSON200.Status == fmv.SUCCESS {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	tasks, err := api.ListTaskGetWithResponse(ctx, &fmv.ListTaskGetParams{Robot: &name, Status: &[]fmv.Status{fmv.SUCCESS}})
	must(err == nil && len(tasks.JSON200.Tasks) == 1, "list %v", err)
	fmt.Println("All as expected")
}
