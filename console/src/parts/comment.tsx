/** The comment of an approval or a rejection. */

// As in ApproveStageRequest and RejectStageRequest.
const MAX_LENGTH = 200;

export function Comment(props: { value: string; set: (value: string) => void; class?: string }) {
    return (
        <label class={props.class}>
            Comment
            <input
                value={props.value}
                maxLength={MAX_LENGTH}
                onInput={(e) => props.set(e.currentTarget.value)}
                placeholder="optional"
            />
        </label>
    );
}
