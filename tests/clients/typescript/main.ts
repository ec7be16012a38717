// What a program does with the generated client. The compiler checks the types; node runs it against a real server.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Status = components["schemas"]["Status"];
declare const process: { argv: string[] };

const [baseUrl, token] = process.argv.slice(2);
if (!baseUrl || !token) throw new Error("usage: main.js BASE_URL TOKEN");
const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });

function expect(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

async function ended(task_id: string): Promise<components["schemas"]["RobotTask"]> {
  const over: Status[] = ["SUCCESS", "FAILURE", "REVOKED"];
  for (;;) {
    const { data } = await api.GET("/task/{task_id}", { params: { path: { task_id } } });
    expect(data !== undefined, "the task is there");
    if (over.includes(data.status)) return data;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const name = "Crow T. TypeScript";
const path = { name };

const created = await api.POST("/robot/", { body: { name, location: "Satellite of Love", description: "You know" } });
expect(created.data?.name === name && created.data.lanes === 1, "a robot is created");
expect(created.response.headers.get("ETag") === '"1"', "with its ETag");

const rest = { enabled: false, lanes: 4, labels: ["a"], endpoint: "http://crow.example" };
const other = `${name} II`;
const before = await api.POST("/robot/", { body: { name: other, location: "x", description: "y", ...rest } });
await api.PATCH("/robot/{name}", { params: { path: { name: other } }, body: { location: "Mars" } });
const moved = await api.GET("/robot/{name}", { params: { path: { name: other } } });
expect(moved.data?.location === "Mars", "a robot is moved");
const wanted = { ...before.data, location: "Mars", updated_at: moved.data.updated_at };
expect(JSON.stringify(moved.data) === JSON.stringify(wanted), "and nothing else of it changes");

const key = { "Idempotency-Key": "typescript" };
const body = { handler: "wait", params: { seconds: 0.1 }, labels: ["client"] };
const first = await api.POST("/robot/{name}/run", { params: { path, header: key }, body });
const again = await api.POST("/robot/{name}/run", { params: { path, header: key }, body });
expect(first.data?.status === "CREATED", "a task is submitted");
expect(again.data?.task_id === first.data.task_id, "and only once");

const task = await ended(first.data.task_id);
expect(task.status === "SUCCESS" && task.robot === name && task.error === null, "it succeeds");

const later = await api.POST("/robot/{name}/run", { params: { path }, body: { run_at: "2100-01-01T00:00:00Z" } });
expect(later.data !== undefined, "another task is submitted");
const cancelled = await api.POST("/task/{task_id}/cancel", { params: { path: { task_id: later.data.task_id } } });
expect(cancelled.data?.status === "REVOKED", "and cancelled");

const page = await api.GET("/task/", { params: { query: { robot: name, status: ["SUCCESS", "REVOKED"], limit: 10 } } });
expect(page.data?.tasks.length === 2 && page.data.next === null, "both are listed");

const unknown = await api.GET("/robot/{name}", { params: { path: { name: "nobody" } } });
expect(unknown.error?.detail === "Not Found", "an unknown robot is told in a sentence");

const taken = await api.POST("/robot/", { body: { name, location: "x", description: "y" } });
expect(taken.response.status === 409 && Array.isArray(taken.error?.detail), "a taken name is told as a problem");
expect(Array.isArray(taken.error.detail) && taken.error.detail[0]?.loc.join(".") === "body.name", "of the name");

// @ts-expect-error The compiler knows that a location is missing.
const wrong = await api.POST("/robot/", { body: { name: "Incomplete", description: "y" } });
expect(wrong.response.status === 422, "as the server does");

console.log("All as expected");
